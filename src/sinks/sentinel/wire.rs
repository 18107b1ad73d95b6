//! Bodies of the upload API.
