"""Full-size networks as ONNX models with seeded random weights, built op by op as torch's exporter writes them:
`python -m bench.models resnet50 --size 224 -o x.onnx`. A file has networks of one kind; `bench.table` lists what is measured."""
