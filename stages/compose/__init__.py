"""New rows out of the rows there are: joined, in an order, under a request of their own."""
