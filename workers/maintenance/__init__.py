"""Rebuild, verify and replay: work that corrects or checks read models beside the drains."""
