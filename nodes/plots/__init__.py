"""The plots of the nodes. Only the files of this folder import matplotlib, when something is drawn."""
