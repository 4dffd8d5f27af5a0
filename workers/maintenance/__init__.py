"""Rebuild, verify and replay: work that checks or corrects read models while drains continue."""
