// Curves whose points are dragged: one for each action, a value from -1 to 1 for each step.
const WIDTH = 520, LEFT = 30, RIGHT = 10, EDGE = 7;

export default {
  template: `
    <div class="curves">
      <div v-for="(name, action) in names" :key="action" class="curve">
        <div class="curve-name">{{ name }}<b>{{ label(action) }}</b></div>
        <svg :viewBox="'0 0 ' + width + ' ' + height" :height="height" width="100%"
             preserveAspectRatio="none" @pointermove="move" @pointerup="release" @pointercancel="release">
          <rect v-if="shown > 0" :x="x(shown - 1)" y="0" :width="step" :height="height" class="curve-shown" />
          <line v-for="level in [-1, 0, 1]" :x1="x(0)" :x2="x(steps)" :y1="y(level)" :y2="y(level)"
                :class="level ? 'curve-bound' : 'curve-zero'" />
          <polyline v-if="before" :points="stairs(before, action)" class="curve-before" />
          <polyline :points="stairs(values, action)" class="curve-line" />
          <rect v-for="(row, at) in values" :key="at" class="curve-point" tabindex="0" role="slider"
                rx="4" :x="middle(at) - 9" :y="y(row[action]) - 6" width="18" height="12"
                aria-valuemin="-1" aria-valuemax="1" :aria-valuenow="row[action]"
                :aria-label="name + ', step ' + (at + 1)"
                :data-action="action" :data-step="at"
                :class="{ held: held && held.action === action && held.step === at }"
                @pointerdown.prevent="hold($event, at, action)" @dblclick="put(at, action, 0)"
                @keydown.up.prevent="put(at, action, row[action] + 0.05)"
                @keydown.down.prevent="put(at, action, row[action] - 0.05)" />
        </svg>
      </div>
      <div class="curve">
        <div class="curve-name">step</div>
        <svg :viewBox="'0 0 ' + width + ' 14'" height="14" width="100%" preserveAspectRatio="none">
          <text v-for="at in steps" :x="middle(at - 1)" y="11" text-anchor="middle" class="curve-step">{{ at }}</text>
        </svg>
      </div>
    </div>`,
  props: { names: Array, sequence: Array, before: Array, shown: Number, height: Number },
  data() {
    return { values: this.copy(this.sequence), held: null, width: WIDTH, observer: null };
  },
  watch: {
    // While a point is dragged the person's value stands, whatever the server says meanwhile.
    sequence(sequence) {
      const values = this.copy(sequence);
      if (this.held) values[this.held.step][this.held.action] = this.values[this.held.step][this.held.action];
      this.values = values;
    },
  },
  mounted() {
    this.observer = new ResizeObserver(() => {
      const svg = this.$el.querySelector("svg");
      if (svg && svg.clientWidth) this.width = svg.clientWidth;
    });
    this.observer.observe(this.$el);
  },
  unmounted() {
    this.observer.disconnect();
  },
  computed: {
    steps() { return this.values.length; },
    step() { return (this.width - LEFT - RIGHT) / this.steps; },
  },
  methods: {
    copy(sequence) { return sequence.map((row) => [...row]); },
    x(at) { return LEFT + this.step * at; },
    middle(at) { return this.x(at) + this.step / 2; },
    y(value) { return EDGE + ((1 - value) / 2) * (this.height - 2 * EDGE); },
    stairs(rows, action) {
      const point = (at, value) => `${this.x(at).toFixed(1)},${this.y(value).toFixed(1)}`;
      return rows.map((row, at) => `${point(at, row[action])} ${point(at + 1, row[action])}`).join(" ");
    },
    label(action) {
      const at = this.held && this.held.action === action ? this.held.step : Math.max(this.shown - 1, 0);
      return `${this.values[at][action] >= 0 ? "+" : "−"}${Math.abs(this.values[at][action]).toFixed(2)}`;
    },
    put(step, action, value) {
      value = Math.round(Math.min(1, Math.max(-1, value)) * 1000) / 1000;
      if (this.values[step][action] === value) return;
      this.values[step][action] = value;
      this.$emit("change", { step, action, value });
    },
    hold(event, step, action) {
      event.target.focus();
      event.target.ownerSVGElement.setPointerCapture(event.pointerId);
      this.held = { step, action };
    },
    move(event) {
      if (!this.held) return;
      const box = event.currentTarget.getBoundingClientRect();
      const share = ((event.clientY - box.top) / box.height) * this.height;
      this.put(this.held.step, this.held.action, 1 - (2 * (share - EDGE)) / (this.height - 2 * EDGE));
    },
    release() { this.held = null; },
  },
};
