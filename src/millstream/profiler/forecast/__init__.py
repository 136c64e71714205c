"""What is still to come in a request, with the error that the forecast had on requests it had not seen."""
