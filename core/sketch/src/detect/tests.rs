use std::vec::Vec;
