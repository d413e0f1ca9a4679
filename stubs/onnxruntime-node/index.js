class InferenceSession {
  static create() {
    throw new Error("onnxruntime is not part of this build");
  }
}
module.exports = {
  InferenceSession,
  Tensor: require("onnxruntime-common").Tensor,
  env: require("onnxruntime-common").env,
  listSupportedBackends: () => [{ name: "cpu", bundled: true }],
};
