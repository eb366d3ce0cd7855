"""Recipes, training rows, loss masks, LoRA training and the proof of an adapter."""
