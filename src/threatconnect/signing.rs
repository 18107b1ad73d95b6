//! HMAC signatures and tokens, computed anew for each attempt.
