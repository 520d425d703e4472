"""Evaluates what runs measured: metrics, statistics, comparisons, reports and exports."""
