"""What every room may use: errors, folders, ranges of numbers, and the registries of parts."""
