"""Bundles on their way to the boards: OCI registries and folders, signatures, and switching from release to release."""
