"""Figures as SVG text and pages as one HTML file, without a script or a plotting library."""
