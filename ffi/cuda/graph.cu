// Graphs: none here, ops are called one by one.
#include "device.cuh"

int32_t koala_graph_begin(koala_device*) { return fail("koala_graph_begin: this device has no graphs; its ops are called one by one."); }
int32_t koala_graph_end(koala_device*, koala_graph**) { return fail("koala_graph_end: this device has no graphs."); }
int32_t koala_graph_launch(koala_device*, koala_graph*) { return fail("koala_graph_launch: this device has no graphs."); }
int32_t koala_graph_close(koala_device*, koala_graph*) { return fail("koala_graph_close: this device has no graphs."); }
