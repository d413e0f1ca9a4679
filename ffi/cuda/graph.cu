// Graphs: ops recorded by capturing the device's stream, and run again as one launch.
//
// Always: a recording computes nothing and takes no memory; one that lacks an op makes no graph; after koala_graph_end the
// device is as before, whatever went wrong. A graph's ops name the caller's memory and one block of scratch, which stays
// until the last graph that uses it is closed, though the device may have taken a larger one since.
#include "device.cuh"

#include <stdlib.h>

namespace {

/** Where the device's list names the graph; where it ends, if it does not. */
koala_graph** place_of(koala_device* dev, const koala_graph* graph) {
  koala_graph** place = &dev->graphs;
  while (*place && *place != graph) place = &(*place)->next;
  return place;
}

/** Makes what was captured launchable, and the device keep its scratch. */
int32_t instantiate(koala_device* dev, cudaGraph_t captured, koala_graph** out) {
  koala_graph* graph = (koala_graph*)malloc(sizeof(koala_graph));
  REQUIRE(graph, "koala_graph_end: the system has no memory for a graph.");
  *graph = koala_graph();
  const cudaError_t status = cudaGraphInstantiate(&graph->exec, captured, 0);
  if (status != cudaSuccess) {
    cudaGetLastError();
    free(graph);
    return fail("koala_graph_end: the GPU cannot hold the graph: %s (%s).", cudaGetErrorString(status),
        cudaGetErrorName(status));
  }
  graph->scratch = dev->scratch, graph->scratch_bytes = dev->scratch_bytes;
  memcpy(graph->checks, dev->checks, sizeof graph->checks);
  graph->next = dev->graphs;
  dev->graphs = *out = graph;
  return 0;
}

}  // namespace

int32_t koala_graph_begin(koala_device* dev) {
  REQUIRE_POINTER("graph_begin", dev);
  REQUIRE(!dev->recording, "koala_graph_begin: the device records a graph already; koala_graph_end ends it.");
  if (begin(dev, "koala_graph_begin") || finish(dev)) return -1;
  if (wait_for(dev)) return -1;  // no fault of an earlier op is left, so checks are those of the recorded ones
  memset(dev->checks, 0, sizeof dev->checks);
  // Other threads, which run collectives, may call what they like meanwhile.
  REQUIRE_CUDA("graph_begin", cudaStreamBeginCapture(dev->stream, cudaStreamCaptureModeThreadLocal));
  dev->recording = true;
  dev->incomplete = false;
  return 0;
}

int32_t koala_graph_end(koala_device* dev, koala_graph** out) {
  REQUIRE_POINTER("graph_end", dev);
  REQUIRE(dev->recording, "koala_graph_end: no recording has begun.");
  cudaGraph_t captured = nullptr;
  const cudaError_t status = cudaStreamEndCapture(dev->stream, &captured);
  dev->recording = false;
  int32_t result = 0;
  if (status != cudaSuccess) {
    cudaGetLastError();
    if (out)
      result = fail("koala_graph_end: what was recorded is no graph: %s (%s).", cudaGetErrorString(status),
          cudaGetErrorName(status));
  } else if (out && dev->incomplete) {
    result = fail("koala_graph_end: an op failed in the recording, and the graph would lack it.");
  } else if (out) {
    result = instantiate(dev, captured, out);
  }
  if (captured) cudaGraphDestroy(captured);
  return result;
}

int32_t koala_graph_launch(koala_device* dev, koala_graph* graph) {
  REQUIRE_POINTER("graph_launch", dev);
  REQUIRE_POINTER("graph_launch", graph);
  REQUIRE(!dev->recording, "koala_graph_launch: the device records a graph, which cannot hold another.");
  REQUIRE(*place_of(dev, graph), "koala_graph_launch: the device has no such graph; it was closed, or is another device's.");
  if (finish(dev)) return -1;  // faults of ops before it, by their names
  if (begin(dev, "koala_graph_launch")) return -1;
  for (int kind = 0; kind < FAULT_KINDS; kind++)
    if (graph->checks[kind].symbol) dev->checks[kind] = graph->checks[kind];
  REQUIRE_CUDA("graph_launch", cudaGraphLaunch(graph->exec, dev->stream));
  return finish(dev);
}

int32_t koala_graph_close(koala_device* dev, koala_graph* graph) {
  REQUIRE_POINTER("graph_close", dev);
  REQUIRE_POINTER("graph_close", graph);
  REQUIRE(!dev->recording, "koala_graph_close: the device records a graph; close others before or after.");
  koala_graph** place = place_of(dev, graph);
  REQUIRE(*place, "koala_graph_close: the device has no such graph; it was closed, or is another device's.");
  if (cudaStreamSynchronize(dev->stream) != cudaSuccess) cudaGetLastError();  // launches that still run; they tell elsewhere
  *place = graph->next;
  cudaGraphExecDestroy(graph->exec);
  if (graph->scratch != dev->scratch && !is_recorded(dev, graph->scratch)) cudaFree(graph->scratch);
  free(graph);
  return 0;
}
