"""Image folders and files, up to uint8 pixels. Nothing here needs Jittor."""
