"""What a person reads: pictures, the table at the end of a log, the page of everything that was
run."""
