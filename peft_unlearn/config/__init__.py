"""What a user may set: keys, their checks, methods and recipes. Nothing here waits for torch but `unlearn_config`."""
