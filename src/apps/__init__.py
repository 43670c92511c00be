"""Commands next to the stream; nothing else imports them."""
