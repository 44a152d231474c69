"""A stand-in for pycuda whose GPU memory is the host's; see driver.py."""
