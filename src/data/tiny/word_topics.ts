/** Words and simple facts in koala-tiny's corpus: opposites, animals, colours, capitals, lists, spelling, yes and no. */
import { lookup, pairs, words, type Item, type Topic } from "./topic.ts";

export function wordTopics(): Topic[] {
  return [...meanings(), ...animals(), ...facts(), ...sequences(), lists(), ...letters(), yesOrNo()];
}

const opposites = pairs(
  `hot: cold; big: small; tall: short; fast: slow; light: dark; happy: sad; good: bad; new: old; open: closed; full: empty;
  wet: dry; hard: soft; loud: quiet; early: late; easy: difficult; clean: dirty; rich: poor; strong: weak; thick: thin;
  wide: narrow; near: far; up: down; left: right; in: out; on: off; day: night; summer: winter; black: white; first: last;
  inside: outside; above: below; always: never; win: lose; push: pull; begin: end; buy: sell; give: take; love: hate;
  question: answer; friend: enemy; true: false; yes: no; deep: shallow; sharp: blunt; sweet: sour; high: low; brave: afraid;
  heavy: light; front: back; north: south; east: west; asleep: awake; alive: dead; same: different; more: less`,
);

const plurals = pairs(
  `cat: cats; dog: dogs; house: houses; tree: trees; book: books; car: cars; box: boxes; bus: buses; fox: foxes; city: cities;
  baby: babies; lady: ladies; leaf: leaves; wolf: wolves; knife: knives; child: children; man: men; woman: women; foot: feet;
  tooth: teeth; mouse: mice; goose: geese; sheep: sheep; fish: fish; bird: birds; apple: apples; glass: glasses; dish: dishes`,
);

const pasts = pairs(
  `go: went; see: saw; eat: ate; run: ran; come: came; take: took; give: gave; make: made; say: said; find: found;
  think: thought; buy: bought; bring: brought; write: wrote; read: read; sing: sang; swim: swam; drink: drank; sleep: slept;
  fly: flew; know: knew; play: played; walk: walked; talk: talked; jump: jumped; cook: cooked; help: helped; open: opened`,
);

function meanings(): Topic[] {
  return [
    lookup(
      "opposites",
      5,
      opposites,
      [
        "What is the opposite of {k}?",
        "Opposite of {k}?",
        "Tell me the opposite of {k}.",
        "Which word is the opposite of {k}?",
        "Give me the opposite of {k}.",
      ],
      ["The opposite of {k} is {v}."],
      { followUp: "And of {k}?" },
    ),
    lookup(
      "plurals",
      2,
      plurals,
      [
        "What is the plural of {k}?",
        "Plural of {k}?",
        "Tell me the plural of {k}.",
        "Give me the plural of {k}.",
      ],
      ["The plural of {k} is {v}."],
      { followUp: "And of {k}?" },
    ),
    lookup(
      "past tense",
      2,
      pasts,
      [
        "What is the past tense of {k}?",
        "Past tense of {k}?",
        "Tell me the past tense of {k}.",
        "Give me the past tense of {k}.",
      ],
      ["The past tense of {k} is {v}."],
      { followUp: "And of {k}?" },
    ),
  ];
}

const sounds = pairs(
  `a dog: woof; a cat: meow; a cow: moo; a sheep: baa; a duck: quack; a pig: oink; a horse: neigh; a lion: roar; a frog: ribbit;
  a bee: buzz; a snake: hiss; a mouse: squeak; an owl: hoot; a rooster: cock-a-doodle-doo; a crow: caw; a wolf: howl`,
);

const legs = pairs(
  `a dog: four; a cat: four; a cow: four; a horse: four; a sheep: four; a lion: four; a bird: two; a duck: two; a chicken: two;
  an owl: two; an ant: six; a bee: six; a fly: six; a beetle: six; a spider: eight; a snake: no; a fish: no; a worm: no`,
);

const kinds = pairs(
  `a dog: a mammal; a cat: a mammal; a cow: a mammal; a koala: a mammal; a whale: a mammal; a bat: a mammal; an eagle: a bird;
  a duck: a bird; an owl: a bird; a penguin: a bird; a salmon: a fish; a shark: a fish; a trout: a fish; a bee: an insect;
  an ant: an insect; a beetle: an insect; a snake: a reptile; a lizard: a reptile; a turtle: a reptile; a frog: an amphibian`,
);

const young = pairs(
  `dog: puppy; cat: kitten; cow: calf; sheep: lamb; horse: foal; pig: piglet; duck: duckling; goose: gosling; bear: cub;
  lion: cub; kangaroo: joey; koala: joey; frog: tadpole; chicken: chick; goat: kid; deer: fawn`,
);

function animals(): Topic[] {
  return [
    lookup(
      "animal sounds",
      3,
      sounds,
      [
        "What sound does {k} make?",
        "What does {k} say?",
        "Which sound does {k} make?",
        "How does {k} sound?",
      ],
      ["{k} says {v}."],
      { followUp: "And {k}?" },
    ),
    lookup(
      "legs",
      2,
      legs,
      ["How many legs does {k} have?", "How many legs has {k}?", "Tell me how many legs {k} has."],
      ["{k} has {v} legs."],
      { followUp: "And {k}?" },
    ),
    lookup(
      "animal kinds",
      2,
      kinds,
      ["What kind of animal is {k}?", "Which kind of animal is {k}?", "Tell me what kind of animal {k} is."],
      ["{k} is {v}."],
      { followUp: "And {k}?" },
    ),
    lookup(
      "young animals",
      2,
      young,
      ["What is a young {k} called?", "What do you call a young {k}?", "What is the name of a baby {k}?"],
      ["A young {k} is called a {v}."],
      { followUp: "And a young {k}?" },
    ),
  ];
}

const colours = pairs(
  `the sky: blue; grass: green; snow: white; coal: black; a banana: yellow; a lemon: yellow; blood: red; a tomato: red;
  a strawberry: red; an orange: orange; a carrot: orange; milk: white; chocolate: brown; a leaf: green; the sea: blue;
  the sun: yellow; a flamingo: pink; an elephant: gray; a frog: green; a koala: gray; salt: white; a cherry: red; a cucumber: green`,
);

const capitals = pairs(
  `France: Paris; Germany: Berlin; Italy: Rome; Spain: Madrid; England: London; Japan: Tokyo; China: Beijing; Russia: Moscow;
  Egypt: Cairo; Greece: Athens; Austria: Vienna; Portugal: Lisbon; Poland: Warsaw; Sweden: Stockholm; Norway: Oslo;
  Finland: Helsinki; Denmark: Copenhagen; Ireland: Dublin; Canada: Ottawa; Australia: Canberra; Hungary: Budapest; Cuba: Havana;
  Peru: Lima; Kenya: Nairobi; India: New Delhi; Thailand: Bangkok; Belgium: Brussels; Turkey: Ankara; Iran: Tehran; Argentina: Buenos Aires`,
);

const uses = pairs(
  `a knife: to cut things; a pen: to write; a bed: to sleep; a chair: to sit; a cup: to drink; a spoon: to eat soup; a key: to open a door;
  a clock: to tell the time; a lamp: to make light; a broom: to sweep the floor; an umbrella: to stay dry in the rain;
  a hammer: to hit nails; a towel: to dry yourself; a camera: to take pictures; a phone: to call people; a map: to find the way;
  a bag: to carry things; soap: to wash; a brush: to paint; a boat: to travel on water`,
);

const homes = pairs(
  `a bird: in a nest; a bee: in a hive; a fish: in the water; a lion: in Africa; a koala: in Australia; a kangaroo: in Australia;
  a penguin: on the ice; a camel: in the desert; a cow: on a farm; a spider: in a web; a fox: in the forest; a whale: in the sea;
  a rabbit: in a burrow; a horse: in a stable; a polar bear: in the Arctic; an ant: in an ant hill`,
);

function facts(): Topic[] {
  return [
    lookup(
      "colours",
      4,
      colours,
      [
        "What color is {k}?",
        "What colour is {k}?",
        "Which color does {k} have?",
        "Tell me the color of {k}.",
      ],
      ["{k} is {v}."],
      { followUp: "And {k}?" },
    ),
    lookup(
      "capitals",
      4,
      capitals,
      [
        "What is the capital of {k}?",
        "Capital of {k}?",
        "Which city is the capital of {k}?",
        "Tell me the capital of {k}.",
        "Do you know the capital of {k}?",
      ],
      ["The capital of {k} is {v}."],
      { followUp: "And of {k}?" },
    ),
    lookup(
      "uses",
      2,
      uses,
      ["What is {k} for?", "What do you use {k} for?", "Why do people use {k}?", "Tell me what {k} is for."],
      ["You use {k} {v}."],
      { followUp: "And {k}?" },
    ),
    lookup(
      "homes",
      2,
      homes,
      ["Where does {k} live?", "Where can you find {k}?", "Tell me where {k} lives."],
      ["{k} lives {v}."],
      { followUp: "And {k}?" },
    ),
  ];
}

const days = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday");
const months = words("January February March April May June July August September October November December");
const alphabet = [..."ABCDEFGHIJKLMNOPQRSTUVWXYZ"];

/** What comes after and before in a circle of names. */
function neighbours(names: readonly string[], step: 1 | -1): Item[] {
  return names.map((k, i) => ({ k, v: names[(i + step + names.length) % names.length]! }));
}

function sequences(): Topic[] {
  const line = [...neighbours(alphabet.slice(0, -1), 1).slice(0, -1), { k: "Y", v: "Z" }];
  return [
    lookup(
      "day after",
      2,
      neighbours(days, 1),
      [
        "What day comes after {k}?",
        "Which day follows {k}?",
        "What is the day after {k}?",
        "If today is {k}, what is tomorrow?",
      ],
      ["After {k} comes {v}."],
      { followUp: "And after {k}?" },
    ),
    lookup(
      "day before",
      2,
      neighbours(days, -1),
      [
        "What day comes before {k}?",
        "Which day is before {k}?",
        "What is the day before {k}?",
        "If today is {k}, what was yesterday?",
      ],
      ["Before {k} comes {v}."],
      { followUp: "And before {k}?" },
    ),
    lookup(
      "month after",
      2,
      neighbours(months, 1),
      ["What month comes after {k}?", "Which month follows {k}?", "What is the month after {k}?"],
      ["After {k} comes {v}."],
      { followUp: "And after {k}?" },
    ),
    lookup(
      "letter after",
      2,
      line,
      [
        "What letter comes after {k}?",
        "Which letter follows {k}?",
        "What is the letter after {k} in the alphabet?",
      ],
      ["After {k} comes {v}."],
      { followUp: "And after {k}?" },
    ),
  ];
}

const categories: { [name: string]: string[] } = {
  animals: words("dog cat horse cow bird"),
  "farm animals": words("cow pig sheep horse goat"),
  "wild animals": words("lion elephant bear wolf tiger"),
  colors: words("red blue green yellow black"),
  fruits: words("apple banana orange pear grape"),
  vegetables: words("carrot potato onion bean pea"),
  drinks: words("water milk tea coffee juice"),
  "things in a kitchen": words("spoon fork knife cup plate"),
  "things in a school": words("desk book pen chair board"),
  sports: words("football tennis swimming running skiing"),
  "musical instruments": words("piano guitar violin drum flute"),
  trees: words("oak pine birch maple elm"),
  flowers: words("rose tulip daisy lily violet"),
  birds: words("eagle owl duck crow swan"),
  "parts of the body": words("head arm leg hand foot"),
  clothes: words("shirt coat hat shoe sock"),
  shapes: words("circle square triangle star oval"),
  planets: words("Mercury Venus Earth Mars Jupiter"),
  metals: words("iron gold silver copper tin"),
  "days of the week": days.slice(0, 5),
  months: months.slice(0, 5),
};

const numberNames = ["two", "three", "four", "five"];

function lists(): Topic {
  const items = Object.entries(categories).flatMap(([k, members]) =>
    numberNames.map((n, i) => {
      const chosen = members.slice(0, i + 2);
      return { k, n, v: `${chosen.slice(0, -1).join(", ")} and ${chosen.at(-1)}` };
    }),
  );
  return lookup(
    "lists",
    6,
    items,
    ["Name {n} {k}.", "Tell me {n} {k}.", "List {n} {k}.", "Can you name {n} {k}?", "Give me {n} {k}."],
    ["{n} {k} are {v}."],
  );
}

const shortWords = words(
  `cat dog sun hat cup bed pen box car bus red big map fox cow pig hen bee ant egg ice key leg net owl pie rat sea tea van
  book tree fish bird milk ball hand moon star rain snow wind fire lamp door desk shoe ship frog bear lion duck goat rose
  apple house chair table bread water green koala happy smile river stone tiger zebra`,
);

function letters(): Topic[] {
  const spelled = shortWords.map((k) => ({ k, v: [...k.toUpperCase()].join("-") }));
  const reversed = shortWords.map((k) => ({ k, v: [...k].toReversed().join("") }));
  const lengths = shortWords.map((k) => ({ k, v: String(k.length) }));
  const firsts = shortWords.map((k) => ({ k, v: k.charAt(0).toUpperCase() }));
  const lasts = shortWords.map((k) => ({ k, v: k.at(-1)!.toUpperCase() }));
  return [
    lookup(
      "spelling",
      4,
      spelled,
      [
        "Spell {k}.",
        "How do you spell {k}?",
        "Spell the word {k}.",
        "Can you spell {k}?",
        "Please spell {k}.",
      ],
      ["{k} is spelled {v}."],
      { followUp: "And {k}?" },
    ),
    lookup(
      "reversing",
      3,
      reversed,
      [
        "Reverse the word {k}.",
        "What is {k} backwards?",
        "Spell {k} backwards.",
        "Write {k} backwards.",
        "Reverse {k}.",
      ],
      ["{k} backwards is {v}."],
      { followUp: "And {k}?" },
    ),
    lookup(
      "word length",
      2,
      lengths,
      [
        "How many letters are in {k}?",
        "How many letters does the word {k} have?",
        "Count the letters in {k}.",
      ],
      ["{k} has {v} letters."],
      { followUp: "And {k}?" },
    ),
    lookup(
      "first letter",
      2,
      firsts,
      [
        "What is the first letter of {k}?",
        "Which letter does {k} begin with?",
        "Tell me the first letter of {k}.",
      ],
      ["The first letter of {k} is {v}."],
      { followUp: "And of {k}?" },
    ),
    lookup(
      "last letter",
      2,
      lasts,
      [
        "What is the last letter of {k}?",
        "Which letter does {k} end with?",
        "Tell me the last letter of {k}.",
      ],
      ["The last letter of {k} is {v}."],
      { followUp: "And of {k}?" },
    ),
  ];
}

/** Each colour, kind and home asked for truly, and once falsely with a neighbour's value. */
function yesOrNo(): Topic {
  const statements = (items: readonly Item[]): Item[] =>
    items.flatMap((item, i) => {
      const other = items.find((candidate, j) => j > i && candidate.v !== item.v) ?? items[0]!;
      const right = `${item.k} is ${item.v}`;
      const yes = { q: `${item.k} ${item.v}`, v: "Yes", rest: right };
      if (other.v === item.v) return [yes];
      return [yes, { q: `${item.k} ${other.v}`, v: "No", rest: right }];
    });
  return lookup(
    "yes or no",
    5,
    [...statements(colours), ...statements(kinds)],
    ["Is {q}?", "Tell me, is {q}?", "Yes or no: is {q}?"],
    ["{v}, {rest}."],
  );
}
