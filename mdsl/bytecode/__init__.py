"""The bytecode: its module, its table of opcodes, its file format, its verifier and its disassembler."""
