"""Rows and run folders -> a report: one page, figures, tables, crops of images, in files and on the terminal."""
