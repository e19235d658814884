"""The figures that mdsl promises, measured side by side on this machine: `make bench`."""
