//! The emulated Functions host, from outside: recorded exchanges, and stories of handlers that crash, hang and come back.

mod compare;
mod listener;
mod vectors;
