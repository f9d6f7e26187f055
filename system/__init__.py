"""What every room needs of the machine: files in one step, progress on a terminal or in a log, processes. Needs no Jittor."""
