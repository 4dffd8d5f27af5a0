"""What commands print: the status screen and the reports of rebuilds."""
