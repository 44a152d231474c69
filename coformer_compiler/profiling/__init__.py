"""Devices measured before anything is built: packs of random members, and predictors fitted to what boards tell."""
