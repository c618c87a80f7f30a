"""The commands of `foundry`, one file each; `command_table.py` lists them."""
