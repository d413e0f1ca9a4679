module.exports = function sharp() {
  throw new Error("image support is not part of this build");
};
