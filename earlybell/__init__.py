"""Earlybell: sentiment signals from financial news."""
