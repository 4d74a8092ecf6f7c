"""Tells relying parties where certificates stand: OCSP and bulk status."""
