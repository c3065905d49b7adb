//! placeholder until the node is there
