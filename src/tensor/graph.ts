/** Ops recorded once on a GPU and run again as one call, so that a step costs the host one call and not hundreds.
 *  Always: a graph repeats its ops with the addresses and sizes that they were recorded with; what lies there may change, and
 *  stays there as long as the graph lives. Recording computes nothing. */
import { ptr, type Pointer } from "bun:ffi";
import type { Device } from "./device.ts";

export class Graph {
  private readonly out = new BigUint64Array(1);

  private constructor(private readonly device: Device) {}

  /** Records the ops that `ops` calls. They were called before with the same shapes, so that nothing has to grow; uploads,
   *  downloads and collectives cannot be recorded. Where an op fails, its error is thrown and the device is as before. */
  static record(device: Device, ops: () => void): Graph {
    const { native, handle } = device;
    const graph = new Graph(device);
    device.check("koala_graph_begin", native.koala_graph_begin(handle));
    try {
      ops();
    } catch (error) {
      native.koala_graph_end(handle, null);
      throw error;
    }
    device.check("koala_graph_end", native.koala_graph_end(handle, ptr(graph.out)));
    return graph;
  }

  launch(): void {
    const { native, handle } = this.device;
    this.device.check("koala_graph_launch", native.koala_graph_launch(handle, this.address));
  }

  /** Its memory may go afterwards, and the scratch that it held. */
  close(): void {
    const { native, handle } = this.device;
    this.device.check("koala_graph_close", native.koala_graph_close(handle, this.address));
  }

  private get address(): Pointer {
    return Number(this.out[0]) as Pointer;
  }
}
