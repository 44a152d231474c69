"""What each device is (one TOML file each) and how an engine is built for it."""
