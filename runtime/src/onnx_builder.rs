//! Small ONNX files for tests.

use prost::Message;
use tract_onnx::pb::tensor_proto::DataType;
use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
use tract_onnx::pb::{
    AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto,
    TensorShapeProto, TypeProto, ValueInfoProto, type_proto,
};

/// A graph that is put together node by node.
#[derive(Default)]
pub(crate) struct OnnxBuilder {
    graph: GraphProto,
}

impl OnnxBuilder {
    /// A graph with an input and an output, `-1` for a free axis.
    pub(crate) fn new(
        input: (&str, DataType, &[i64]),
        output: (&str, DataType, &[i64]),
    ) -> OnnxBuilder {
        let value = |(name, dtype, shape)| value_info(name, dtype, shape);
        let graph = GraphProto {
            input: vec![value(input)],
            output: vec![value(output)],
            ..GraphProto::default()
        };
        OnnxBuilder { graph }
    }

    pub(crate) fn node(self, operator: &str, inputs: &[&str], output: &str) -> OnnxBuilder {
        self.node_of("", operator, inputs, output)
    }

    pub(crate) fn node_of(
        mut self,
        domain: &str,
        operator: &str,
        inputs: &[&str],
        output: &str,
    ) -> OnnxBuilder {
        self.graph.node.push(NodeProto {
            name: format!("{output}_node"),
            op_type: operator.to_owned(),
            domain: domain.to_owned(),
            input: inputs.iter().map(|name| (*name).to_owned()).collect(),
            output: vec![output.to_owned()],
            ..NodeProto::default()
        });
        self
    }

    /// Puts a node with a subgraph around everything so far.
    pub(crate) fn subgraph(mut self, inner: OnnxBuilder) -> OnnxBuilder {
        let last = self.graph.node.last_mut().expect("there is a node to carry the subgraph");
        last.attribute.push(AttributeProto {
            name: "body".to_owned(),
            g: Some(inner.graph),
            ..AttributeProto::default()
        });
        self
    }

    pub(crate) fn f32s(mut self, name: &str, shape: &[i64], values: &[f32]) -> OnnxBuilder {
        let float_data = values.to_vec();
        self.graph
            .initializer
            .push(TensorProto { float_data, ..tensor(name, DataType::Float, shape) });
        self
    }

    pub(crate) fn i8_scalar(mut self, name: &str, value: i8) -> OnnxBuilder {
        let raw_data = vec![value as u8];
        self.graph.initializer.push(TensorProto { raw_data, ..tensor(name, DataType::Int8, &[]) });
        self
    }

    pub(crate) fn u8_scalar(mut self, name: &str, value: u8) -> OnnxBuilder {
        let raw_data = vec![value];
        self.graph.initializer.push(TensorProto { raw_data, ..tensor(name, DataType::Uint8, &[]) });
        self
    }

    /// A weight that declares more than it holds, or lies elsewhere.
    pub(crate) fn weight(mut self, weight: TensorProto) -> OnnxBuilder {
        self.graph.initializer.push(weight);
        self
    }

    pub(crate) fn bytes(self) -> Vec<u8> {
        let opset = OperatorSetIdProto { domain: String::new(), version: 13 };
        let model = ModelProto {
            ir_version: 8,
            opset_import: vec![opset],
            graph: Some(self.graph),
            ..ModelProto::default()
        };
        model.encode_to_vec()
    }
}

pub(crate) fn tensor(name: &str, dtype: DataType, shape: &[i64]) -> TensorProto {
    TensorProto {
        name: name.to_owned(),
        data_type: dtype as i32,
        dims: shape.to_vec(),
        ..TensorProto::default()
    }
}

fn value_info(name: &str, dtype: DataType, shape: &[i64]) -> ValueInfoProto {
    let dimension = |length: &i64| {
        let value = if *length < 0 {
            Value::DimParam("batch".to_owned())
        } else {
            Value::DimValue(*length)
        };
        Dimension { value: Some(value), ..Dimension::default() }
    };
    let shape = TensorShapeProto { dim: shape.iter().map(dimension).collect() };
    let tensor = type_proto::Tensor { elem_type: dtype as i32, shape: Some(shape) };
    let kind =
        TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..TypeProto::default() };
    ValueInfoProto { name: name.to_owned(), r#type: Some(kind), ..ValueInfoProto::default() }
}
