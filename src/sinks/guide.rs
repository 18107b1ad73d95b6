//! The guide's 22 mapping rows, verbatim and in its order (Tables 2 to 5).
