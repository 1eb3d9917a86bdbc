"""Parts of the elastic vision transformers: blocks, definitions, other projects' names."""
