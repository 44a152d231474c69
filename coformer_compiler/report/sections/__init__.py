"""The sections of the page, one file each: a report in, markup out."""
