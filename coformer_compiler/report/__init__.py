"""The report of a build: what it is made of (schema), its terminal table and its one HTML file."""
