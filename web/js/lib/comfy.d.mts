// The little of ComfyUI's page that this extension uses. For the type check only; the browser never loads it.

export interface Widget {
  name: string;
  value: any;
  options?: { min?: number; max?: number; serialize?: boolean; values?: unknown };
  serialize?: boolean;
  callback?: (value: unknown) => void;
  serializeValue?: () => unknown;
}

export interface Link {
  origin_id: number;
  origin_slot: number;
  target_id: number;
  target_slot: number;
}

export interface SubgraphSlot {
  linkIds?: number[];
}

export interface Graph {
  links: Map<number, Link> | Record<number, Link>;
  nodes?: Node[];
  rootGraph?: Graph;
  inputNode?: { id: number }; // these four: of a subgraph
  outputNode?: { id: number };
  inputs?: SubgraphSlot[];
  outputs?: SubgraphSlot[];
  getNodeById(id: number | string): Node | null;
  setDirtyCanvas?(front: boolean, back: boolean): void;
}

export interface Node {
  id: number | string;
  comfyClass?: string;
  title: string;
  size: [number, number];
  graph: Graph | null;
  subgraph?: Graph;
  widgets?: Widget[];
  inputs?: { name: string; link: number | null }[];
  outputs?: { links: number[] | null }[];
  computeSize(): [number, number];
  setSize(size: [number, number]): void;
  addDOMWidget(name: string, type: string, element: HTMLElement, options: object): Widget;
}

export interface App {
  registerExtension(extension: { name: string; nodeCreated?(node: Node): void }): void;
}

declare global {
  interface Window {
    comfyAPI?: { utils?: { applyTextReplacements?(app: App, text: string): string } };
  }
}

export interface Api extends EventTarget {
  fetchApi(path: string, options?: RequestInit): Promise<Response>;
  apiURL(path: string): string;
}
