"""Tests of what the product promises; the folders mirror the packages."""
