"""What every room may use: errors and folders."""
