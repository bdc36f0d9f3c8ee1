"""What the providers count against what is booked here: nothing is paid for unnoticed."""
