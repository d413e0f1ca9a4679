import { afterAll, describe, expect, test } from "bun:test";
import { chmodSync, existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { placeFromEnvironment } from "../../src/train/ranks/environment.ts";
import { startKoala } from "../support/koala_process.ts";
import { temporaryFolder } from "../support/temporary.ts";
import { at, deployDirectory, flagsOf, type Manifest, manifests, read } from "./files.ts";

const folder = temporaryFolder("deploy");
const files = [...new Bun.Glob("**/*").scanSync(deployDirectory)].sort();

interface Container {
  image: string;
  args: string[];
  ports?: { name: string }[];
  resources: { limits: Record<string, number> };
  volumeMounts: { name: string }[];
}

interface PodSpec {
  containers: [Container];
  volumes: { name: string }[];
  terminationGracePeriodSeconds: number;
}

const podOf = (manifest: Manifest): PodSpec =>
  at(
    manifest.kind === "JobSet" ? at(manifest, "spec.replicatedJobs.0.template") : manifest,
    "spec.template.spec",
  );

const serving = manifests("serve.yaml");
const deployment = serving.find(({ kind }) => kind === "Deployment") as Manifest;
const training = manifests("train.yaml")[0] as Manifest;

test("every file begins with a comment that says what it is and how it is used", () => {
  expect(files).toEqual([
    "Dockerfile",
    "kubernetes/serve.yaml",
    "kubernetes/train.yaml",
    "slurm/train.sbatch",
    "systemd/koala.env",
    "systemd/koala@.service",
  ]);
  for (const file of files) {
    const lines = read(file)
      .replace(/^#!.*\n/, "")
      .split("\n");
    expect([file, lines[0]]).toEqual([file, expect.stringMatching(/^# [A-Z].*[a-z].*/)]);
    expect(lines.every((line) => line.length <= 130)).toBe(true);
  }
});

describe("Kubernetes", () => {
  test("manifests are those that the header names, each with a version and a name", () => {
    expect([...serving, training].map(({ apiVersion, kind }) => `${apiVersion} ${kind}`)).toEqual([
      "v1 PersistentVolumeClaim",
      "apps/v1 Deployment",
      "v1 Service",
      "monitoring.coreos.com/v1 PodMonitor",
      "jobset.x-k8s.io/v1alpha2 JobSet",
    ]);
    for (const manifest of [...serving, training])
      expect(at<string>(manifest, "metadata.name")).toStartWith("koala");
  });

  test("containers have flags that koala knows, and mount volumes that the pod has", () => {
    for (const manifest of [deployment, training]) {
      const { containers, volumes } = podOf(manifest);
      const [{ args, volumeMounts }] = containers;
      expect(flagsOf(args).size).toBeGreaterThan(1);
      expect(volumeMounts.map(({ name }) => name).sort()).toEqual(volumes.map(({ name }) => name).sort());
    }
    expect(() => flagsOf(["serve", "--prot=1"])).toThrow("koala serve has no flag --prot");
    expect(() => flagsOf(["serve", "--port=http"])).toThrow("whole number");
  });

  test("selectors, ports and claims fit together", () => {
    const labels = { "app.kubernetes.io/name": "koala" };
    const [service, monitor] = [serving[2] as Manifest, serving[3] as Manifest];
    expect(at<object>(deployment, "spec.template.metadata.labels")).toEqual(labels);
    for (const [manifest, path] of [
      [deployment, "spec.selector.matchLabels"],
      [service, "spec.selector"],
      [monitor, "spec.selector.matchLabels"],
    ] as const)
      expect(at<object>(manifest, path)).toEqual(labels);
    const [container] = podOf(deployment).containers;
    expect(container.ports).toEqual([
      { name: "http", containerPort: flagsOf(container.args).get("--port") } as { name: string },
    ]);
    expect(at<string>(service, "spec.ports.0.targetPort")).toBe("http");
    expect(at<string>(monitor, "spec.podMetricsEndpoints.0.port")).toBe("http");
    const claim = at<string>(podOf(deployment), "volumes.0.persistentVolumeClaim.claimName");
    expect(claim).toBe(at(serving[0], "metadata.name"));
    expect(podOf(training).containers[0].image).toBe(container.image);
  });

  test("a pod has time to leave the Service and to finish what runs; a rank has a GPU of its own", () => {
    const { containers, terminationGracePeriodSeconds } = podOf(deployment);
    const before = at<number>(containers[0], "lifecycle.preStop.sleep.seconds");
    const drain = flagsOf(containers[0].args).get("--shutdown-timeout") as number;
    expect(terminationGracePeriodSeconds).toBeGreaterThan(before + drain);
    const [trainer] = podOf(training).containers;
    expect(trainer.resources.limits["nvidia.com/gpu"]).toBe(flagsOf(trainer.args).get("--devices") as number);
  });

  describe("with the Deployment's command line", () => {
    const [container] = podOf(deployment).containers;
    const probe = (name: string) => at<string>(container, `${name}.httpGet.path`);
    // The built-in model on this machine's processor, at a free port, instead of what only the cluster has.
    const elsewhere = ["--model", "--served-model-name", "--device", "--port"];
    const args = container.args
      .slice(1)
      .filter((argument) => !elsewhere.includes(argument.split("=")[0] as string));
    const running = startKoala([...args, "--api-key=sk-deploy"]);
    afterAll(async () => (await running).process.kill("SIGKILL"));

    test("probes by address find what they ask for, and the Service's names are answered, others not", async () => {
      const { url } = await running;
      const status = async (path: string, headers: Record<string, string>) => {
        const answer = await fetch(url + path, { headers });
        await answer.body?.cancel();
        return answer.status;
      };
      for (const name of ["startupProbe", "readinessProbe", "livenessProbe"])
        expect([name, await status(probe(name), { host: "10.1.2.3:8000" })]).toEqual([name, 200]);
      const authorization = "Bearer sk-deploy";
      for (const host of ["koala", "koala.default.svc.cluster.local"])
        expect(await status("/v1/models", { host, authorization })).toBe(200);
      expect(await status("/v1/models", { host: "koala.example.com", authorization })).toBe(403);
      const metrics = at<string>(serving[3], "spec.podMetricsEndpoints.0.path");
      expect(await status(metrics, { host: "10.1.2.3:8000", authorization })).toBe(200);
      // So the PodMonitor's credentials are needed.
      expect(await status(metrics, { host: "10.1.2.3:8000" })).toBe(401);
    });

    test("SIGTERM during an answer makes it unready, lets the answer end, and ends it with 0", async () => {
      const server = await running;
      const answer = await fetch(`${server.url}/v1/completions`, {
        method: "POST",
        headers: { authorization: "Bearer sk-deploy" },
        body: JSON.stringify({
          model: "koala-tiny",
          prompt: "Once",
          max_tokens: 150,
          ignore_eos: true,
          stream: true,
        }),
      });
      expect(answer.status).toBe(200);
      const text = answer.text();
      server.process.kill("SIGTERM");
      const ready = () =>
        fetch(server.url + probe("readinessProbe")).then(
          ({ status }) => status,
          () => "closed",
        );
      let state = await ready();
      while (state === 200) state = await ready();
      expect([503, "closed"]).toContain(state);
      expect(await text).toEndWith("data: [DONE]\n\n");
      expect(await server.process.exited).toBe(0);
    });
  });
});

describe("systemd", () => {
  const unit = read("systemd/koala@.service");
  const command = /^ExecStart=\S+ (.*)$/m.exec(unit)![1]!.replaceAll("%i", "3");

  test("the unit has flags that koala knows, a device and a port of its instance's number, and time to drain", () => {
    const flags = flagsOf(command.split(" "));
    expect(Object.fromEntries(flags)).toMatchObject({
      "--model": "${KOALA_MODEL}",
      "--device": "cuda:3",
      "--port": 8003,
    });
    const timeout = Number(/^TimeoutStopSec=(\d+)$/m.exec(unit)![1]);
    expect(timeout).toBeGreaterThan(flags.get("--shutdown-timeout") as number);
    expect(unit).toContain("\nKillMode=mixed\n");
  });

  test("variables of koala.env are read by the unit or by koala", () => {
    const names = [...read("systemd/koala.env").matchAll(/^(\w+)=/gm)].map(([, name]) => name as string);
    expect(names).toEqual(["KOALA_MODEL", "KOALA_API_KEYS", "KOALA_CUDA_LIBS"]);
    const source = ["serve.ts", "doctor.ts"]
      .map((file) => readFileSync(join(deployDirectory, "..", "src", "cli", file), "utf8"))
      .join("");
    for (const name of names) expect([name, (unit + source).includes(name)]).toEqual([name, true]);
  });

  test.skipIf(Bun.which("systemd-analyze") === null)(
    "systemd-analyze has nothing to say (skipped without it)",
    () => {
      const path = join(folder, "koala@.service");
      // It wants the program to be there.
      writeFileSync(path, unit.replaceAll("/usr/local/bin/koala", process.execPath));
      const run = Bun.spawnSync(["systemd-analyze", "verify", "--man=no", path], { stderr: "pipe" });
      expect([run.exitCode, run.stderr.toString()]).toEqual([0, ""]);
    },
  );
});

describe("Slurm", () => {
  const script = read("slurm/train.sbatch");
  const bin = join(folder, "bin");
  mkdirSync(bin);
  const stub = (name: string, text: string) => {
    writeFileSync(join(bin, name), `#!/bin/bash\n${text}\n`);
    chmodSync(join(bin, name), 0o755);
  };
  // srun starts its command and passes signals on, as the real one does.
  stub(
    "srun",
    `shift; trap 'kill -TERM $!' TERM; "$@" & p=$!; wait $p; code=$?; wait $p && code=0; exit $code`,
  );
  stub("scontrol", `echo "$@" > ${join(folder, "requeued")}`);

  /** Runs the script with a koala that trains until it is told to stop, or that ends at once. */
  async function submit(koala: string, signal: boolean) {
    stub("koala", `[ "$1" = doctor ] && exit 0\n${koala}`);
    const child = Bun.spawn(["bash", join(deployDirectory, "slurm", "train.sbatch"), "my.toml"], {
      env: {
        ...process.env,
        PATH: `${bin}:${process.env["PATH"]}`,
        KOALA: join(bin, "koala"),
        SLURM_JOB_ID: "4711",
      },
      stdout: "pipe",
      stderr: "pipe",
    });
    const reader = child.stdout.getReader();
    const first = new TextDecoder().decode((await reader.read()).value);
    if (signal) child.kill("SIGTERM");
    const code = await child.exited;
    const requeued = join(folder, "requeued");
    const requeue = existsSync(requeued) ? readFileSync(requeued, "utf8").trim() : null;
    if (requeue !== null) await Bun.file(requeued).delete();
    return { first: first.trim().split("\n")[0], code, requeue };
  }

  test("the script asks for as many GPUs as it starts ranks, with flags that koala knows", () => {
    const line = /koala" (train .*) &$/m.exec(script)![1]!;
    const ranks = flagsOf(line.split(" ")).get("--devices") as number;
    expect(script).toContain(`#SBATCH --gres=gpu:${ranks}\n`);
  });

  test("a job that is told to stop queues itself again; one that is done, or has failed, does not", async () => {
    const until = (code: number) => `trap 'exit ${code}' TERM; echo "$@"; while :; do sleep 0.02; done`;
    const first = "train my.toml --devices 8 --resume";
    expect(await submit(until(143), true)).toEqual({ first, code: 143, requeue: "requeue 4711" });
    expect(await submit(until(0), true)).toEqual({ first, code: 0, requeue: null });
    expect(await submit('echo "$@"; exit 0', false)).toEqual({ first, code: 0, requeue: null });
    expect(await submit('echo "$@"; exit 1', false)).toEqual({ first, code: 1, requeue: null });
  });
});

test("what Slurm and JobSet set leaves it to koala to start its ranks", () => {
  // srun with one task, and the pod of an indexed job: RANK and WORLD_SIZE are koala's own business.
  const task = { SLURM_PROCID: "0", SLURM_STEP_ID: "0", SLURM_STEP_NUM_TASKS: "1", SLURM_JOB_ID: "4711" };
  expect(read("slurm/train.sbatch")).toContain("#SBATCH --ntasks=1\n");
  expect(placeFromEnvironment(task)).toBeNull();
  expect(placeFromEnvironment({ JOB_COMPLETION_INDEX: "0" })).toBeNull();
  expect(placeFromEnvironment({ ...task, SLURM_PROCID: "1", SLURM_STEP_NUM_TASKS: "2" })).toMatchObject({
    rank: 1,
  });
});

test("the image holds the executable that the build makes, started as the manifests expect", () => {
  const image = read("Dockerfile");
  const built = readFileSync(join(deployDirectory, "..", "src", "cli", "build.ts"), "utf8");
  expect(image).toContain("COPY dist/koala ");
  expect(built).toContain('"dist"');
  expect(image).toMatch(/^ENTRYPOINT \["\/usr\/local\/bin\/koala"\]$/m);
  const user = at<number>(deployment, "spec.template.spec.securityContext.runAsUser");
  expect(image).toContain(`USER ${user}:${user}`);
});
