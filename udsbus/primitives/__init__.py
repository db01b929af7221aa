"""What people know from `threading`, `queue` and `dict`, for the processes of a machine."""
