//! The emulated Functions host, from outside: recorded exchanges, and stories of handlers that crash, hang and come back.

mod app;
mod compare;
mod http;
mod life;
mod listener;
mod queues;
mod timing;
mod vectors;
