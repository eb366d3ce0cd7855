"""Runs each step of a job with the devices it asks for."""
