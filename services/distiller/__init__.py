"""The distiller: keeps all feedback, and makes datasets of batches."""
