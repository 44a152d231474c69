"""What a policy costs its devices."""
