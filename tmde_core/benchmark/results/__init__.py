"""What runs measured: metrics, statistics, comparisons, reports and exports."""
