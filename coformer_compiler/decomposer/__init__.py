"""Who keeps what: policies, the strategies that find them, and the constraints that they fulfil."""
